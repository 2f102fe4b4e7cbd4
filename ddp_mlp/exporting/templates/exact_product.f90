
    !> A product that no compiler makes part of another operation: what follows it is rounded by itself.
    elemental real(wp) function times(a, b)
        real(wp), intent(in) :: a, b
        real(wp), volatile :: p

        p = a * b
        times = p
    end function
